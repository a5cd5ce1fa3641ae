"""The deployed file: contract, flatbuffer, operators, appended zip."""
