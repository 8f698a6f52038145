// Base: see ARCHITECTURE.md.
