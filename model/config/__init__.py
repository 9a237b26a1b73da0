"""Every knob, described and validated once: `sections` has the fields, `load` reads YAML and
overrides.

Loading a config takes milliseconds. Imports `model.errors` alone.
"""
