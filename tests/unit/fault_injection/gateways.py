"""A gateway that tasks call, held in several ways."""

from __future__ import annotations

calls: list[int] = []


def charge(amount: int) -> str:
    calls.append(amount)
    return f"charged {amount}"


async def acharge(amount: int) -> str:
    calls.append(amount)
    return f"charged {amount}"


class Gateway:
    def charge(self, amount: int) -> str:
        calls.append(amount)
        return f"charged {amount}"

    @staticmethod
    def refund(amount: int) -> str:
        calls.append(-amount)
        return f"refunded {amount}"

    @classmethod
    def void(cls, amount: int) -> str:
        calls.append(0)
        return f"voided {amount}"


gateway = Gateway()
