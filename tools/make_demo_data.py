"""Make the small data set that ``mountcache demo`` shows, in mountcache/cli/demo/data.

It has the static layout: ``data/`` with the tables, ``index.json`` with their metadata. All
figures are facts: three tables from the public sources named below, and a table a year of the
Sun's declination, the equation of time and the Sun's distance, which are computed here.

Run it as ``python tools/make_demo_data.py``; it gives the same files each time.

The Sun's formulae are those of the NOAA Solar Calculator (gml.noaa.gov/grad/solcalc), which
come from Jean Meeus, Astronomical Algorithms, chapters 25 and 28; good to about 0.01 degree
and a few seconds of time between 1800 and 2100.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent.parent / "mountcache" / "cli" / "demo" / "data"
YEARS = range(2001, 2031)

ELEMENTS_SOURCE = "IUPAC, Standard atomic weights, abridged to five significant digits (2021)"
ELEMENTS = """
H Hydrogen 1.0080,He Helium 4.0026,Li Lithium 6.94,Be Beryllium 9.0122,B Boron 10.81,
C Carbon 12.011,N Nitrogen 14.007,O Oxygen 15.999,F Fluorine 18.998,Ne Neon 20.180,
Na Sodium 22.990,Mg Magnesium 24.305,Al Aluminium 26.982,Si Silicon 28.085,
P Phosphorus 30.974,S Sulfur 32.06,Cl Chlorine 35.45,Ar Argon 39.95,K Potassium 39.098,
Ca Calcium 40.078,Sc Scandium 44.956,Ti Titanium 47.867,V Vanadium 50.942,
Cr Chromium 51.996,Mn Manganese 54.938,Fe Iron 55.845,Co Cobalt 58.933,Ni Nickel 58.693,
Cu Copper 63.546,Zn Zinc 65.38,Ga Gallium 69.723,Ge Germanium 72.630,As Arsenic 74.922,
Se Selenium 78.971,Br Bromine 79.904,Kr Krypton 83.798,Rb Rubidium 85.468,
Sr Strontium 87.62,Y Yttrium 88.906,Zr Zirconium 91.224,Nb Niobium 92.906,
Mo Molybdenum 95.95,Tc Technetium -,Ru Ruthenium 101.07,Rh Rhodium 102.91,
Pd Palladium 106.42,Ag Silver 107.87,Cd Cadmium 112.41,In Indium 114.82,Sn Tin 118.71,
Sb Antimony 121.76,Te Tellurium 127.60,I Iodine 126.90,Xe Xenon 131.29,Cs Caesium 132.91,
Ba Barium 137.33,La Lanthanum 138.91,Ce Cerium 140.12,Pr Praseodymium 140.91,
Nd Neodymium 144.24,Pm Promethium -,Sm Samarium 150.36,Eu Europium 151.96,
Gd Gadolinium 157.25,Tb Terbium 158.93,Dy Dysprosium 162.50,Ho Holmium 164.93,
Er Erbium 167.26,Tm Thulium 168.93,Yb Ytterbium 173.05,Lu Lutetium 174.97,
Hf Hafnium 178.49,Ta Tantalum 180.95,W Tungsten 183.84,Re Rhenium 186.21,Os Osmium 190.23,
Ir Iridium 192.22,Pt Platinum 195.08,Au Gold 196.97,Hg Mercury 200.59,Tl Thallium 204.38,
Pb Lead 207.2,Bi Bismuth 208.98,Po Polonium -,At Astatine -,Rn Radon -,Fr Francium -,
Ra Radium -,Ac Actinium -,Th Thorium 232.04,Pa Protactinium 231.04,U Uranium 238.03,
Np Neptunium -,Pu Plutonium -,Am Americium -,Cm Curium -,Bk Berkelium -,Cf Californium -,
Es Einsteinium -,Fm Fermium -,Md Mendelevium -,No Nobelium -,Lr Lawrencium -,
Rf Rutherfordium -,Db Dubnium -,Sg Seaborgium -,Bh Bohrium -,Hs Hassium -,Mt Meitnerium -,
Ds Darmstadtium -,Rg Roentgenium -,Cn Copernicium -,Nh Nihonium -,Fl Flerovium -,
Mc Moscovium -,Lv Livermorium -,Ts Tennessine -,Og Oganesson -
"""

CONSTANTS_SOURCE = "CODATA 2018 recommended values; the exact ones define the SI (BIPM, 2019)"
CONSTANTS = (
    ("hyperfine transition frequency of Cs-133", "9192631770", "Hz", "exact"),
    ("speed of light in vacuum", "299792458", "m s^-1", "exact"),
    ("Planck constant", "6.62607015e-34", "J Hz^-1", "exact"),
    ("elementary charge", "1.602176634e-19", "C", "exact"),
    ("Boltzmann constant", "1.380649e-23", "J K^-1", "exact"),
    ("Avogadro constant", "6.02214076e23", "mol^-1", "exact"),
    ("luminous efficacy of 540 THz radiation", "683", "lm W^-1", "exact"),
    ("Newtonian constant of gravitation", "6.67430e-11", "m^3 kg^-1 s^-2", "1.5e-15"),
    ("fine-structure constant", "7.2973525693e-3", "1", "1.1e-12"),
    ("electron mass", "9.1093837015e-31", "kg", "2.8e-40"),
    ("proton mass", "1.67262192369e-27", "kg", "5.1e-37"),
    ("Bohr radius", "5.29177210903e-11", "m", "8.0e-21"),
    ("Rydberg constant", "10973731.568160", "m^-1", "2.1e-5"),
)

PLANETS_SOURCE = "NASA, Planetary Fact Sheet (nssdc.gsfc.nasa.gov)"
PLANETS = (
    ("Mercury", 0.330, 4879, 3.7, 57.9, 88.0),
    ("Venus", 4.87, 12104, 8.9, 108.2, 224.7),
    ("Earth", 5.97, 12756, 9.8, 149.6, 365.2),
    ("Mars", 0.642, 6792, 3.7, 228.0, 687.0),
    ("Jupiter", 1898, 142984, 23.1, 778.5, 4331),
    ("Saturn", 568, 120536, 9.0, 1432.0, 10747),
    ("Uranus", 86.8, 51118, 8.7, 2867.0, 30589),
    ("Neptune", 102, 49528, 11.0, 4515.0, 59800),
)

SUN_SOURCE = "computed by tools/make_demo_data.py with the formulae of NOAA's Solar Calculator"


def sun_at(day: datetime.date) -> tuple[float, float, float]:
    """Return the Sun at 12:00 UTC.

    Returns
    -------
    tuple
        Apparent declination in degrees, equation of time in minutes, distance in au.
    """
    # 2000-01-01 12:00 is the epoch J2000.0; the centuries have 36,525 days.
    centuries = (day - datetime.date(2000, 1, 1)).days / 36525
    mean_longitude = (280.46646 + centuries * (36000.76983 + centuries * 0.0003032)) % 360
    mean_anomaly = 357.52911 + centuries * (35999.05029 - 0.0001537 * centuries)
    eccentricity = 0.016708634 - centuries * (0.000042037 + 0.0000001267 * centuries)
    anomaly = math.radians(mean_anomaly)
    centre = (
        math.sin(anomaly) * (1.914602 - centuries * (0.004817 + 0.000014 * centuries))
        + math.sin(2 * anomaly) * (0.019993 - 0.000101 * centuries)
        + math.sin(3 * anomaly) * 0.000289
    )
    node = math.radians(125.04 - 1934.136 * centuries)
    apparent_longitude = math.radians(mean_longitude + centre - 0.00569 - 0.00478 * math.sin(node))
    seconds = 21.448 - centuries * (46.815 + centuries * (0.00059 - centuries * 0.001813))
    obliquity = math.radians(23 + (26 + seconds / 60) / 60 + 0.00256 * math.cos(node))
    declination = math.degrees(math.asin(math.sin(obliquity) * math.sin(apparent_longitude)))
    y = math.tan(obliquity / 2) ** 2
    longitude = math.radians(mean_longitude)
    equation = 4 * math.degrees(
        y * math.sin(2 * longitude)
        - 2 * eccentricity * math.sin(anomaly)
        + 4 * eccentricity * y * math.sin(anomaly) * math.cos(2 * longitude)
        - 0.5 * y * y * math.sin(4 * longitude)
        - 1.25 * eccentricity * eccentricity * math.sin(2 * anomaly)
    )
    true_anomaly = math.radians(mean_anomaly + centre)
    distance = 1.000001018 * (1 - eccentricity**2) / (1 + eccentricity * math.cos(true_anomaly))
    return declination, equation, distance


def sun_table(year: int) -> str:
    """Return a row for each day of a year."""
    lines = ["date,declination_deg,equation_of_time_min,distance_au"]
    day = datetime.date(year, 1, 1)
    while day.year == year:
        declination, equation, distance = sun_at(day)
        lines.append(f"{day},{declination:.3f},{equation:.2f},{distance:.5f}")
        day += datetime.timedelta(days=1)
    return "\n".join(lines) + "\n"


def element_table() -> str:
    """Return the elements; those without a standard atomic weight have none."""
    lines = ["number,symbol,name,atomic_weight"]
    rows = [row.split() for row in ELEMENTS.replace("\n", "").split(",")]
    for number, (symbol, name, weight) in enumerate(rows, 1):
        lines.append(f"{number},{symbol},{name},{'' if weight == '-' else weight}")
    assert len(lines) == 119
    return "\n".join(lines) + "\n"


def tables() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the text and the metadata of each key."""
    constants = "quantity,value,unit,standard_uncertainty\n" + "".join(
        ",".join(row) + "\n" for row in CONSTANTS
    )
    planets = (
        "planet,mass_1e24_kg,diameter_km,gravity_m_s2,distance_1e6_km,orbital_period_d\n"
        + "".join(",".join(map(str, row)) + "\n" for row in PLANETS)
    )
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "constants.csv": (
            constants,
            {
                "title": "Fundamental physical constants",
                "kind": "measured",
                "units": "named in the column unit",
                "source": CONSTANTS_SOURCE,
            },
        ),
        "elements.csv": (
            element_table(),
            {
                "title": "Chemical elements",
                "kind": "measured",
                "units": "atomic weight: relative to 1/12 of the mass of C-12",
                "source": ELEMENTS_SOURCE,
            },
        ),
        "planets.csv": (
            planets,
            {
                "title": "Planets of the Solar System",
                "kind": "measured",
                "units": "named in the columns",
                "source": PLANETS_SOURCE,
            },
        ),
    }
    for year in YEARS:
        made[f"sun/{year}.csv"] = (
            sun_table(year),
            {
                "title": f"The Sun at 12:00 UTC on each day of {year}",
                "kind": "computed",
                "units": "degrees, minutes of time, astronomical units",
                "source": SUN_SOURCE,
                "year": year,
            },
        )
    return made


def main() -> None:
    """Write all files."""
    index: dict[str, Any] = {}
    for key, (text, metadata) in tables().items():
        path = TARGET / "data" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode()
        path.write_bytes(data)
        index[key] = {**metadata, "sha256": hashlib.sha256(data).hexdigest()}
    spelled = json.dumps(index, indent=1, ensure_ascii=False, sort_keys=True)
    (TARGET / "index.json").write_text(spelled + "\n", "utf-8")


if __name__ == "__main__":
    main()
