"""Where Celery's eager mode is not as a worker: the part of `exceptions` that is the longest.

Measured on Celery 5.7.
"""

from __future__ import annotations

from typing import Final

DECLARED: Final[dict[str, tuple[str, ...]]] = {
    "there is no message": (
        "a_content_type_that_is_not_accepted_is_dropped",
        "a_receiver_can_add_headers",
        "the_outbox_has_what_receivers_add",
        "a_header_of_a_receiver_that_no_broker_carries",
        "a_queue_chosen_at_the_call",
        "a_queue_that_no_worker_consumes",
        "a_retry_to_another_queue",
        "the_delivery_info",
        "nothing_is_left_unacknowledged",
        "a_failure_that_is_not_acknowledged_is_rejected",
        "reject_with_requeue_delivers_it_again",
        "the_signals_of_publishing",
        "the_signals_of_success",
        "the_signals_of_failure",
        "the_signals_of_a_retry",
        "a_custom_request_class",
    ),
    "it has run before the call returns": (
        "publishing_does_not_run",
        "a_countdown_is_kept",
        "etas_are_kept_in_order",
        "a_task_starts_pending",
        "a_retry_waits_for_its_countdown",
        "retry_backoff",
        "revoke_by_id",
        "revoke_of_a_group",
        "two_tasks_at_a_time",
    ),
    "nothing checks revocations and expiry": (
        "revoke_by_stamped_header",
        "an_expired_message_is_revoked",
        "a_message_that_expires_before_its_eta",
        "a_revoked_task_stops_its_chain",
        "the_signals_of_a_revoked_task",
    ),
    "nothing enforces limits": ("a_rate_limit",),
    "it raises at the call": (
        "a_failing_chain_does_not_raise_at_the_call",
        "the_failure_of_a_member_fails_the_body",
        "the_error_link_of_a_chain",
        "the_error_link_of_a_chords_body",
        "a_task_that_exits_is_a_lost_worker",
        "a_failure_whose_exception_is_not_an_exception",
        "an_on_failure_that_raises",
    ),
    "its request is a substitute": (
        "the_request_of_a_plain_task",
        "is_eager_is_false",
        "the_hostname",
        "the_priority_of_a_task",
        "stamps_reach_the_request",
        "the_time_limits_of_a_message_reach_the_request",
        "eta_and_expiry_reach_the_request",
        "shadow_and_argsrepr",
        "the_lineage_of_a_chain",
        "the_rest_of_a_chain_is_in_the_request",
        "the_members_of_a_group_know_it",
    ),
    "`send_task` publishes nevertheless, and nothing runs it": (
        "send_task_by_name",
        "an_unknown_task_is_a_failure",
    ),
    "the canvas is unrolled at the call": (
        "replace_by_a_chain",
        "replace_by_a_chord",
        "replace_by_a_group",
        "replace_inside_a_chain",
        "replace_inside_a_group",
        "replace_inside_a_chord",
        "add_to_chord",
    ),
    "results are stored in another way": (
        "a_result_ignored_at_the_call",
        "children_are_stored",
        "started_is_tracked",
    ),
}
