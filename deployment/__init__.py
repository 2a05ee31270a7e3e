"""Takes an exported bundle to a server and to a person's screen: Triton repository, local server, web app.

Run a tool from a checkout as `python -m deployment.<tool>`.
"""
