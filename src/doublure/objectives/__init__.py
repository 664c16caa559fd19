"""What must it match?"""
