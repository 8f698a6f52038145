// VirtioFS: see ARCHITECTURE.md.
