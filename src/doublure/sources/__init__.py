"""Which inputs is the student trained on?"""
