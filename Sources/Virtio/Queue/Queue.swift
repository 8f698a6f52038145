// Queue: see ARCHITECTURE.md.
