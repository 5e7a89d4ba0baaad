"""Programs as they stand, followed until a model that holds something of a file is first called."""
