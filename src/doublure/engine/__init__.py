"""How is it carried out?"""
