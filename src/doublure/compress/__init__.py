"""How is a network made smaller?"""
