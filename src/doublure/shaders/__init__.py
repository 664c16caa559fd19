"""How is a shader drawn?"""
