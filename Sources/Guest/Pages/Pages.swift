// Pages: see ARCHITECTURE.md.
