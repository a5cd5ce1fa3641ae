"""What many devices' monitors saw, joined."""
