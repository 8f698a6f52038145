// Devices: see ARCHITECTURE.md.
