"""What a person sees, made by pure functions of messages and the time."""
