"""How is it asked from a shell?"""
