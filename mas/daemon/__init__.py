"""The process: which roles run in it, how its parts are joined, how it starts and stops."""
