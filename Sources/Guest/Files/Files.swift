// Files: see ARCHITECTURE.md.
