// Locks: see ARCHITECTURE.md.
