// RamFS: see ARCHITECTURE.md.
