def c_names(stem):
    return (f"{stem}.h", f"{stem}.c")


def c_source(stem, flatbuffer, contract):
    return dict.fromkeys(c_names(stem), b"")
