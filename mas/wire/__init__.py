"""Protobuf, at the border only: the generated code in `wire/gen`, and what translates it to our own words."""
