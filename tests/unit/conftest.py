"""How the examples of Hypothesis are run."""

import os
import sys

from hypothesis import Phase, settings

from pytest_djcelery import locations

# How long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None)
# For mutation testing: that an example fails is enough, and it fails again.
settings.register_profile(
    "mutation", deadline=None, derandomize=True, database=None, phases=[Phase.generate]
)
settings.load_profile(os.environ.get("DJCELERY_HYPOTHESIS_PROFILE", "untimed"))

if "mutmut" in sys.modules:
    # Its switch between mutants is called by the code that it mutates, as a library would be.
    locations._LIBRARIES = (*locations._LIBRARIES, "mutmut")
