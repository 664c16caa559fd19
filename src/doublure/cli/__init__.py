"""How is it used from a shell?"""
