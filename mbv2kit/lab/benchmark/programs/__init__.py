"""Complete programs as users write them: each classifies a folder of JPEG files and writes a line of JSON per image."""
