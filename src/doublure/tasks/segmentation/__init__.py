"""Which class is each pixel?"""
