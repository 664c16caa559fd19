"""What must the student match?"""
