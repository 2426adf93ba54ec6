"""Bytes measured on the device, and forwards made to fit them."""
