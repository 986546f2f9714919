"""The primary language of a tag (BCP 47), in two letters where ISO 639-1 has them."""

import re
from typing import Final

_ISO_639: Final = """
aa aar,ab abk,ae ave,af afr,ak aka,am amh,an arg,ar ara arb,as asm,av ava,ay aym,az aze azj,ba bak,be bel,bg bul,bi bis,
bm bam,bn ben,bo bod tib,br bre,bs bos,ca cat,ce che,ch cha,co cos,cr cre,cs ces cze,cu chu,cv chv,cy cym wel,da dan,
de deu ger,dv div,dz dzo,ee ewe,el ell gre,en eng,eo epo,es spa,et est ekk,eu eus baq,fa fas per pes,ff ful,fi fin,
fj fij,fo fao,fr fra fre,fy fry,ga gle,gd gla,gl glg,gn grn,gu guj,gv glv,ha hau,he heb iw,hi hin,ho hmo,hr hrv,ht hat,
hu hun,hy hye arm,hz her,ia ina,id ind in,ie ile,ig ibo,ii iii,ik ipk,io ido,is isl ice,it ita,iu iku,ja jpn,
jv jav jw,ka kat geo,kg kon,ki kik,kj kua,kk kaz,kl kal,km khm,kn kan,ko kor,kr kau,ks kas,ku kur kmr,kv kom,kw cor,
ky kir,la lat,lb ltz,lg lug,li lim,ln lin,lo lao,lt lit,lu lub,lv lav lvs,mg mlg plt,mh mah,mi mri mao,mk mkd mac,
ml mal,mn mon khk,mr mar,ms msa may zsm,mt mlt,my mya bur,na nau,nd nde,ne nep npi,ng ndo,nl nld dut,
no nor nb nob nn nno,nr nbl,nv nav,ny nya,oc oci,oj oji,om orm,or ori ory,os oss,pa pan,pi pli,pl pol,ps pus,pt por,
qu que,rm roh,rn run,ro ron rum mo mol,ru rus,rw kin,sa san,sc srd,sd snd,se sme,sg sag,si sin,sk slk slo,sl slv,sm smo,
sn sna,so som,sq sqi alb als,sr srp sh hbs,ss ssw,st sot,su sun,sv swe,sw swa swh,ta tam,te tel,tg tgk,th tha,ti tir,
tk tuk,tl tgl fil,tn tsn,to ton,tr tur,ts tso,tt tat,tw twi,ty tah,ug uig,uk ukr,ur urd,uz uzb uzn,ve ven,vi vie,vo vol,
wa wln,wo wol,xh xho,yi yid ydd ji,yo yor,za zha,zh zho chi cmn,zu zul
"""
_PRIMARY: Final = {
    code: codes.split()[0] for codes in _ISO_639.replace("\n", "").split(",") for code in codes.split()[1:]
}
_LANGUAGE: Final = re.compile(r"\s*([A-Za-z]{2,3})(?![A-Za-z0-9])")
_UNKNOWN: Final = re.compile("und|mul|mis|zxx|q[a-t][a-z]")
UNKNOWN: Final = ""


def primary_language(tag: str) -> str:
    """`en` for `EN`, `en-US`, `en_GB` and `eng`; UNKNOWN for `und`, other codes without a language, and what is no tag.

    Norwegian is one language, and so are the codes that ISO 639-3 has for the standard form of a language (`cmn`).
    """
    found = _LANGUAGE.match(tag)
    code = found[1].lower() if found else "und"
    return UNKNOWN if _UNKNOWN.fullmatch(code) else _PRIMARY.get(code, code)
