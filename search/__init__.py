"""What people open in a browser: a page to start from and the pages that runs left.

Read-only, on loopback, behind the door of `flows.servers`. May import tasks and model, never flows.
"""
