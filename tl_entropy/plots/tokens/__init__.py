"""Texts token by token: figures and pages."""
