def c_names(stem):
    return (f"{stem}.h", f"{stem}.c")


def c_source(stem, flatbuffer, contract):
    return {name: b"" for name in c_names(stem)}
