"""Models on this node: its Ollama, watched and kept as it shall be, and the gate through which it is reached."""
