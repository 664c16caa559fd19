"""Which class is it?"""
