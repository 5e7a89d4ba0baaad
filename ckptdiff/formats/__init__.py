"""Place → Opened: one module a format, and one table of them. Headers only; nothing is imported, nothing run."""
