"""Models behind an OpenAI-compatible endpoint, by the Responses or the Chat Completions API."""
