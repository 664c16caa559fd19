"""How is it made smaller?"""
