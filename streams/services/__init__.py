"""Services: classes of traffic that the user names, and which flow belongs to which."""
