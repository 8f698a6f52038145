// Linux: see ARCHITECTURE.md.
