"""The structs of examples/prototype.py are laid out as the compiler lays out those of the headers.

Usage: test_prototype.py PRINT_LAYOUT, the program of print_layout.c
"""
import ctypes
import pathlib
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "examples"))
import prototype


def python_layout():
    layout = {"dtype." + name: (number,) for name, number in prototype.DTYPES.items()}
    for struct in ctypes.Structure.__subclasses__():
        if struct.__module__ != "prototype":
            continue
        layout[struct.__name__] = (ctypes.sizeof(struct),)
        for name, _ in struct._fields_:
            field = getattr(struct, name)
            layout[f"{struct.__name__}.{name}"] = (field.offset, field.size)
    return layout


def c_layout(program):
    printed = subprocess.run([program], stdout=subprocess.PIPE, text=True, check=True).stdout
    lines = (line.split() for line in printed.splitlines())
    return {name: tuple(map(int, numbers)) for name, *numbers in lines}


def main():
    in_c, in_python = c_layout(sys.argv[1]), python_layout()
    wrong = [name for name in sorted(in_c.keys() | in_python.keys())
             if in_c.get(name) != in_python.get(name)]
    for name in wrong:
        print(f"{name}: C {in_c.get(name)}, Python {in_python.get(name)}")
    if wrong or "vtc_plan.fate" not in in_c:
        sys.exit(1)
    print(f"{len(in_c)} sizes, offsets and values agree")


if __name__ == "__main__":
    main()
