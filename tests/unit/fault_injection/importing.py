"""Imports a function of the gateway by name."""

from tests.unit.fault_injection.gateways import charge

__all__ = ["charge"]
