"""One batch in plain Python, a module for each thing that a row meets. Nothing here loads the orchestrator."""
