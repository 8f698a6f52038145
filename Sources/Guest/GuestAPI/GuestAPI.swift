// GuestAPI: see ARCHITECTURE.md.
