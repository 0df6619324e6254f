"""MAS: a distributed account and payment system."""

__version__ = "0.1.0"
