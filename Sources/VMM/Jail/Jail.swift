// Jail: see ARCHITECTURE.md.
