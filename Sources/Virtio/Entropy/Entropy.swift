// Entropy: see ARCHITECTURE.md.
