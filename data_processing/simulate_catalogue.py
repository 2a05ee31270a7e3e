"""Commands of the log generator: names in five languages, ids, classes, targets and descriptions.

Commands are composed from a lexicon of nouns and verbs, so that one id carries a different name in each
language. Ids avoid the view ids that cleaning drops, save on menus, which keep theirs on purpose: a filter
that forgets that menus are exempt loses rows that the truth keeps.
"""

from dataclasses import dataclass, field

LANGUAGES = ("en", "de", "fr", "ja", "es")
TOOL, MENU, END_EVENT = "Tool", "Menu", "End Event"
NOISE_NUMBERS = frozenset(
    {242, -242, 218, 8, 199, 236, -241, -240, 307, 201, -303, 305, 306, 193, 205, 203},
)

# key | en | de | fr | ja | es | family (objects with a tool of their own) or "-" (menu vocabulary only)
_NOUNS = """
wall|Wall|Wand|Mur|壁|Muro|shell
slab|Slab|Decke|Dalle|スラブ|Losa|shell
column|Column|Stütze|Poteau|柱|Columna|shell
beam|Beam|Träger|Poutre|梁|Viga|shell
curtain_wall|Curtain Wall|Vorhangfassade|Mur-rideau|カーテンウォール|Muro cortina|shell
roof|Roof|Dach|Toiture|屋根|Cubierta|shell
door|Door|Tür|Porte|ドア|Puerta|opening
window|Window|Fenster|Fenêtre|窓|Ventana|opening
skylight|Skylight|Dachfenster|Lanterneau|天窓|Claraboya|opening
stair|Stair|Treppe|Volée d'escalier|階段|Escalera|fitting
railing|Railing|Geländer|Garde-corps|手すり|Barandilla|fitting
furniture|Furniture|Möbel|Mobilier|家具|Mueble|fitting
cabinet|Cabinet|Schrank|Placard|キャビネット|Armario|fitting
fixture|Plumbing Fixture|Sanitärobjekt|Appareil sanitaire|衛生器具|Sanitario|fitting
line|Line|Linie|Ligne|直線|Línea|draft
rectangle|Rectangle|Rechteck|Rectangle|四角形|Rectángulo|draft
circle|Circle|Kreis|Cercle|円|Círculo|draft
polyline|Polyline|Polylinie|Polyligne|曲線|Polilínea|draft
polygon|Polygon|Polygon|Polygone|多角形|Polígono|draft
arc|Arc|Kreisbogen|Arc|円弧|Arco|draft
ellipse|Ellipse|Ellipse|Ellipse|楕円|Elipse|draft
hatch|Hatch|Schraffur|Hachure|ハッチング|Sombreado|draft
extrude|Extrude|Tiefenkörper|Extrusion|柱状体|Extrusión|solid
sweep|Sweep|Rotationskörper|Solide de révolution|回転体|Barrido|solid
sphere|Sphere|Kugel|Sphère|球|Esfera|solid
cone|Cone|Kegel|Cône|円錐|Cono|solid
loft|Loft Surface|Verbundkörper|Surface lissée|ロフト|Solevado|solid
curve|NURBS Curve|NURBS-Kurve|Courbe NURBS|NURBS曲線|Curva NURBS|solid
mesh|Mesh|Netz|Maillage|メッシュ|Malla|solid
tree|Plant|Pflanze|Plante|植栽|Planta|site
road|Road|Straße|Route|道路|Carretera|site
hardscape|Hardscape|Belagsfläche|Aménagement minéral|舗装|Pavimento|site
fence|Fence|Zaun|Clôture|フェンス|Valla|site
grade|Grade|Böschung|Pente|勾配|Pendiente|site
light|Lighting Device|Scheinwerfer|Projecteur|照明器具|Proyector|stage
truss|Truss|Traverse|Structure alu|トラス|Truss|stage
speaker|Speaker|Lautsprecher|Enceinte|スピーカー|Altavoz|stage
hoist|Hoist|Motor|Moteur d'accroche|ホイスト|Motor|stage
riser|Stage Deck|Podest|Praticable|ステージ|Tarima|stage
space|Space|Raum|Espace|スペース|Espacio|plan
dimension|Dimension|Bemaßung|Cote|寸法|Cota|note
callout|Callout|Hinweis|Légende fléchée|引出線|Llamada|note
tag|Data Tag|Datenstempel|Étiquette|データタグ|Etiqueta|note
keynote|Keynote|Kennzeichnung|Note-clé|キーノート|Nota clave|note
text|Text|Text|Texte|文字|Texto|note
title_block|Title Block Border|Plankopf|Cartouche|図面枠|Cajetín|sheet
section|Section Marker|Schnittmarke|Repère de coupe|断面線|Marca de sección|sheet
legend|Graphic Legend|Grafische Legende|Légende graphique|凡例|Leyenda|sheet
symbol|Symbol|Symbol|Symbole|シンボル|Símbolo|plan
document|Document|Dokument|Document|書類|Documento|-
pdf|PDF|PDF|PDF|PDF|PDF|-
dwg|DWG|DWG|DWG|DWG|DWG|-
ifc|IFC Model|IFC-Modell|Modèle IFC|IFCモデル|Modelo IFC|-
image|Image|Bild|Image|イメージ|Imagen|-
reference|Reference|Referenz|Référence|参照|Referencia|-
layer|Layer|Ebene|Calque|レイヤ|Capa|-
class|Class|Klasse|Classe|クラス|Clase|-
sheet|Sheet Layer|Layoutebene|Calque présentation|シートレイヤ|Capa de presentación|-
texture|Texture|Textur|Texture|テクスチャ|Textura|-
material|Material|Material|Matériau|マテリアル|Material|-
worksheet|Worksheet|Tabelle|Tableau|ワークシート|Hoja de cálculo|-
record|Record Format|Datenbank|Format de fiche|レコード|Formato de registro|-
selection|Selection|Auswahl|Sélection|選択範囲|Selección|-
object|Object|Objekt|Objet|図形|Objeto|-
group|Group|Gruppe|Groupe|グループ|Grupo|-
site_model|Site Model|Geländemodell|Modèle de terrain|地形モデル|Modelo de terreno|-
rendering|Rendering|Darstellung|Rendu|レンダリング|Render|-
camera|Camera|Kamera|Caméra|カメラ|Cámara|-
story|Story|Geschoss|Étage|ストーリ|Planta|-
"""

# key | en | de | fr | ja | es | class; {} is the noun
_VERBS = """
create|Create {}|{} erstellen|Créer {}|{}を作成|Crear {}|Create
edit|Edit {}|{} bearbeiten|Modifier {}|{}を編集|Editar {}|Update
new|New {}|{} neu|Nouveau {}|新規{}|Nuevo {}|Create
open|Open {}|{} öffnen|Ouvrir {}|{}を開く|Abrir {}|Open
save|Save {}|{} sichern|Enregistrer {}|{}を保存|Guardar {}|Save
import|Import {}|{} importieren|Importer {}|{}を取り込む|Importar {}|Import
export|Export {}|{} exportieren|Exporter {}|{}を取り出す|Exportar {}|Export
print|Print {}|{} drucken|Imprimer {}|{}をプリント|Imprimir {}|Export
select|Select {}|{} aktivieren|Sélectionner {}|{}を選択|Seleccionar {}|Select
copy|Copy {}|{} kopieren|Copier {}|{}をコピー|Copiar {}|Copy
paste|Paste {}|{} einfügen|Coller {}|{}をペースト|Pegar {}|Create
duplicate|Duplicate {}|{} duplizieren|Dupliquer {}|{}を複製|Duplicar {}|Copy
delete|Delete {}|{} löschen|Supprimer {}|{}を消去|Eliminar {}|Delete
purge|Purge {}|{} bereinigen|Purger {}|{}を整理|Purgar {}|Delete
drag|Drag {}|{} ziehen|Glisser {}|{}をドラッグ|Arrastrar {}|Move
move|Move {}|{} verschieben|Déplacer {}|{}を移動|Mover {}|Move
rotate|Rotate {}|{} rotieren|Pivoter {}|{}を回転|Rotar {}|Move
mirror|Mirror {}|{} spiegeln|Symétrie {}|{}を鏡映|Reflejar {}|Move
align|Align {}|{} ausrichten|Aligner {}|{}を整列|Alinear {}|Move
scale|Scale {}|{} skalieren|Redimensionner {}|{}を伸縮|Escalar {}|Update
offset|Offset {}|{} parallel|Décaler {}|{}をオフセット|Desfasar {}|Update
trim|Trim {}|{} trimmen|Ajuster {}|{}をトリミング|Recortar {}|Update
fillet|Fillet {}|{} abrunden|Congé {}|{}をフィレット|Empalmar {}|Update
chamfer|Chamfer {}|{} abfasen|Chanfrein {}|{}を面取り|Achaflanar {}|Update
split|Split {}|{} zerschneiden|Couper {}|{}を切断|Dividir {}|Update
combine|Combine {}|{} verbinden|Combiner {}|{}を合成|Combinar {}|Update
add|Add {}|{} zusammenfügen|Ajouter {}|{}を貼り合わせる|Sumar {}|Update
subtract|Subtract {}|{} abziehen|Soustraire {}|{}を削り取る|Restar {}|Update
group|Group {}|{} gruppieren|Grouper {}|{}をグループ化|Agrupar {}|Organise
ungroup|Ungroup {}|{} auflösen|Dégrouper {}|{}をグループ解除|Desagrupar {}|Organise
assign|Assign {}|{} zuweisen|Attribuer {}|{}を割り当て|Asignar {}|Organise
show|Show {}|{} zeigen|Afficher {}|{}を表示|Mostrar {}|View
hide|Hide {}|{} verbergen|Masquer {}|{}を隠す|Ocultar {}|View
update|Update {}|{} aktualisieren|Mettre à jour {}|{}を更新|Actualizar {}|Update
convert|Convert to {}|In {} umwandeln|Convertir en {}|{}に変換|Convertir a {}|Convert
"""

# submenu | en | de | fr | ja | es
_SUBMENUS = """
file|File|Datei|Fichier|ファイル|Archivo
edit|Edit|Bearbeiten|Édition|編集|Edición
modify|Modify|Ändern|Modification|加工|Modificar
model|Model|3D-Modell|Modélisation|モデル|Modelo
aec|AEC|Architektur|Architecture|建築|AEC
organise|Tools|Extras|Outils|ツール|Herramientas
view|View|Ansicht|Vue|ビュー|Vista
"""

MENUS = (
    "file.new.document file.open.document file.save.document file.import.dwg file.import.pdf "
    "file.import.image file.import.ifc file.export.pdf file.export.dwg file.export.ifc file.export.image "
    "file.print.sheet file.update.reference file.new.reference edit.copy.selection edit.paste.selection "
    "edit.duplicate.object edit.select.object edit.delete.selection edit.select.class edit.select.layer "
    "modify.align.object modify.group.object modify.ungroup.group modify.rotate.object "
    "modify.mirror.object modify.scale.object modify.convert.polyline modify.convert.group "
    "modify.edit.group modify.assign.class modify.assign.layer modify.assign.texture "
    "modify.assign.material modify.assign.record model.add.object model.subtract.object "
    "model.create.site_model model.update.site_model model.edit.texture model.new.texture "
    "model.new.material aec.create.space aec.create.story aec.edit.story aec.update.worksheet "
    "aec.new.worksheet aec.edit.worksheet aec.new.record organise.new.class organise.edit.class "
    "organise.hide.class organise.show.class organise.new.layer organise.edit.layer organise.hide.layer "
    "organise.show.layer organise.new.sheet organise.edit.sheet organise.purge.document "
    "view.show.rendering view.edit.rendering view.update.rendering view.new.camera view.edit.camera "
    "view.show.selection view.hide.selection"
)

# Seen in about one session in a hundred, never in a grammar: what the rare-command filter is for.
RARE_MENUS = (
    "file.import.record file.export.worksheet file.export.record modify.convert.mesh modify.convert.curve "
    "model.purge.texture aec.delete.story aec.purge.record organise.delete.class organise.delete.layer "
    "organise.delete.sheet view.delete.camera"
)

# Menus that leave the drawing as it is: an undone event never takes one of them along (submenu or submenu.verb).
NOT_STARTERS = ("file", "edit.copy", "edit.select")

# Generic events, and whether a tool of the same name starts them.
GENERIC_EVENTS = {
    "drag": False, "delete": False, "duplicate": False, "paste": False, "move": True, "rotate": True,
    "mirror": True, "scale": True, "align": False, "offset": True, "trim": True, "fillet": True,
    "chamfer": True, "split": True, "combine": False, "add": False, "subtract": False, "group": False,
    "ungroup": False, "assign": False,
}  # fmt: skip

# High-level command -> the low-level event that always comes right after it. "event:" is a high-level event
# (verb.noun) that exists for this purpose, the others are menus.
PAIRS = {
    "aec.create.wall": "create.wall",
    "aec.create.roof": "create.roof",
    "model.create.extrude": "create.extrude",
    "modify.create.hatch": "create.hatch",
    "organise.create.title_block": "create.title_block",
    "model.create.light": "create.light",
    "event:convert.wall": "edit.wall",
    "event:convert.space": "edit.space",
    "event:convert.tree": "edit.tree",
}

# View commands: (number of the tool or None, number of the event, event name). All are noise.
VIEWS = (
    (None, 242, "Zoom"),
    (-242, 242, "Zoom"),
    (-241, 236, "Pan"),
    (-303, 201, "Flyover"),
    (None, 8, "Change View"),
    (None, 218, "Change View"),
    (None, 199, "Rotate View"),
    (None, 307, "Force Select"),
    (None, 305, "Viewport"),
    (None, 306, "Viewport"),
    (None, 193, "3D View"),
    (None, 205, "Fit Page"),
    (None, 203, "Walkthrough"),
    (-240, None, "Selection Tool"),
)


@dataclass(frozen=True)
class Command:
    """One command: its row kind, its number, its names per language and what it does to what."""

    kind: str
    number: int
    names: dict[str, tuple[str, ...]]
    classification: str
    target: str
    description: str
    noise: bool = False
    starts: bool = True  # a tool or menu that may begin an event

    @property
    def canonical_id(self) -> str:
        """The id without any language, for instance ``End Event (75)``."""
        return f"{self.kind} ({self.number})"

    def item_id(self, language: str) -> str:
        """The message as cleaning gives it: no quotes, no ``(MAX-n)``, no menu counter."""
        return f"{self.kind}: {' - '.join(self.names[language])} ({self.number})"


@dataclass
class Catalogue:
    """All commands and the index from grammar keys to their positions.

    Keys: ``T:noun`` tool, ``C:noun`` create event, ``E:noun`` edit event, ``T:verb`` generic tool, ``G:verb``
    generic event, ``M:submenu.verb.noun`` menu, ``P:verb.noun`` high-level event; views are ``view tool n``
    and ``view event n``.
    """

    commands: list[Command] = field(default_factory=list)
    index: dict[str, int] = field(default_factory=dict)
    families: dict[str, list[str]] = field(default_factory=dict)

    def put(self, key: str, command: Command) -> None:
        """Add one command under a grammar key."""
        self.index[key] = len(self.commands)
        self.commands.append(command)

    def pairs(self) -> list[tuple[int, int]]:
        """Positions of (high-level, low-level) commands, in the order of `PAIRS`."""
        prefixes = {"create": "C:", "edit": "E:"}
        lows = {high: low.split(".") for high, low in PAIRS.items()}
        return [(self.index[pair_key(high)], self.index[prefixes[verb] + noun])
                for high, (verb, noun) in lows.items()]  # fmt: skip


def pair_key(high: str) -> str:
    """Grammar key of a high-level command of `PAIRS`."""
    return "P:" + high.removeprefix("event:") if high.startswith("event:") else "M:" + high


def _rows(table: str) -> dict[str, list[str]]:
    split = (line.split("|") for line in table.strip().splitlines())
    return {cells[0]: cells[1:] for cells in split}


def _phrase(verb: list[str], noun: list[str]) -> dict[str, tuple[str, ...]]:
    return {language: (verb[i].format(noun[i]),) for i, language in enumerate(LANGUAGES)}


def _add_events(catalogue: Catalogue, nouns: dict[str, list[str]], verbs: dict[str, list[str]]) -> None:
    numbers = (n for n in range(310, 1000) if n not in NOISE_NUMBERS)
    fixed = {"drag": 75, "delete": 58}
    for verb in GENERIC_EVENTS:
        names, english = _phrase(verbs[verb], nouns["object"]), verbs[verb][0].format("objects").lower()
        command = Command(END_EVENT, fixed.get(verb) or next(numbers), names, verbs[verb][5], "Object",
                          f"Finishes the action to {english} in the drawing.")  # fmt: skip
        catalogue.put(f"G:{verb}", command)
    wanted = [(v, n) for n, cells in nouns.items() if cells[5] != "-" for v in ("create", "edit")]
    wanted += [(v, n) for v, n in (p[6:].split(".") for p in PAIRS if p.startswith("event:"))]
    for verb, noun in wanted:
        english, target = verbs[verb][0].format(nouns[noun][0]), nouns[noun][0]
        prefix = {"create": "C", "edit": "E"}.get(verb)
        key = f"{prefix}:{noun}" if prefix else f"P:{verb}.{noun}"
        text = f"Finishes the command {english}, which works on objects of the type {target.lower()}."
        names = _phrase(verbs[verb], nouns[noun])
        catalogue.put(key, Command(END_EVENT, next(numbers), names, verbs[verb][5], target, text))


def _add_tools(catalogue: Catalogue, nouns: dict[str, list[str]], verbs: dict[str, list[str]]) -> None:
    numbers = (-n for n in range(310, 1000) if -n not in NOISE_NUMBERS)
    fixed = {"wall": -203, "line": -201}  # near the view ids 203 and 201, which drop events, not these tools
    for noun, cells in nouns.items():
        if cells[5] == "-":
            continue
        catalogue.families.setdefault(cells[5], []).append(noun)
        names: dict[str, tuple[str, ...]] = {language: (cells[i],) for i, language in enumerate(LANGUAGES)}
        text = f"Activates the tool that draws objects of the type {cells[0].lower()}."
        catalogue.put(f"T:{noun}", Command(TOOL, fixed.get(noun) or next(numbers), names, "Create", cells[0], text))
    for verb, has_tool in GENERIC_EVENTS.items():
        if has_tool:
            names = _phrase(verbs[verb], nouns["object"])
            text = f"Activates the tool to {verb} objects."
            catalogue.put(f"T:{verb}", Command(TOOL, next(numbers), names, verbs[verb][5], "Object", text))


def _add_menus(catalogue: Catalogue, nouns: dict[str, list[str]], verbs: dict[str, list[str]]) -> None:
    submenus = _rows(_SUBMENUS)
    keys = [*MENUS.split(), *(p for p in PAIRS if not p.startswith("event:")), *RARE_MENUS.split()]
    # From 190 on the numbers cross the view ids, which must never drop a menu.
    for number, key in enumerate(keys, start=190):
        submenu, verb, noun = key.split(".")
        phrase = _phrase(verbs[verb], nouns[noun])
        names = {lang: (submenus[submenu][i], *phrase[lang]) for i, lang in enumerate(LANGUAGES)}
        text = f"Menu command that starts '{phrase['en'][0]}' from the menu {submenus[submenu][0]}."
        starts = submenu not in NOT_STARTERS and f"{submenu}.{verb}" not in NOT_STARTERS
        command = Command(MENU, number, names, verbs[verb][5], nouns[noun][0], text, starts=starts)
        catalogue.put(f"M:{key}", command)


def build_catalogue() -> Catalogue:
    """Build the catalogue; the same on every call. View commands (noise) come last."""
    nouns, verbs = _rows(_NOUNS), _rows(_VERBS)
    catalogue = Catalogue()
    _add_events(catalogue, nouns, verbs)
    _add_tools(catalogue, nouns, verbs)
    _add_menus(catalogue, nouns, verbs)
    for i, (tool, event, name) in enumerate(VIEWS):
        names: dict[str, tuple[str, ...]] = {language: (name,) for language in LANGUAGES}
        for kind, number in ((TOOL, tool), (END_EVENT, event)):
            if number is not None:
                command = Command(kind, number, names, "View", "View", f"{name}.", noise=True)
                catalogue.put(f"view {'tool' if kind == TOOL else 'event'} {i}", command)
    return catalogue
