// Command: see ARCHITECTURE.md.
