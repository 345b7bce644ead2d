"""The command line: one function a command, whose signature is its flags."""
