"""ModuleTree × Checkpoint → Outcome: what a loader would do. One package or module a loader."""
