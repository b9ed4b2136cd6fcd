print("zipped")
