"""Everyday Chinese words for what detectors call things, and the way back: what to ask a detector for."""

import re
from functools import cache

# english|english=中文/中文: the first Chinese word is the thing's name, all of them lead back to the first English one.
NAMES = """
person=人/行人/人物, man=男人/男士, woman=女人/女士, boy=男孩, girl=女孩, child|kid=小孩/儿童/萌娃,
baby=婴儿/宝宝/新生儿/新生儿护理, bride=新娘, human face|face=人脸, hand|human hand=手, hair|human hair=头发,
hairstyle=发型/美发护发/发型设计, tattoo=纹身, bicycle=自行车/单车/骑行, car=汽车/轿车,
motorcycle|motorbike=摩托车/摩托/机车, airplane|aeroplane|aircraft=飞机/坐飞机, bus=公交车/巴士/大巴, train=火车,
high-speed train=高铁/坐高铁, truck|heavy truck=卡车/货车, boat=船, sailboat=帆船, ship=轮船, cruise ship=邮轮/邮轮游,
minivan=MPV/商务车, van=商务车/面包车, suv=SUV/越野车, pickup truck=皮卡/皮卡越野, sports car=跑车/超跑, taxi=的士/出租车,
ambulance=救护车, fire truck=消防车, police car=警车, tricycle=三轮车, electric scooter|scooter=电瓶车, helicopter=直升机,
drone=无人机/机器人无人机, camper van=房车, race car|formula 1=赛车/F1赛车, helmet=头盔, car wheel|wheel=车轮/轮毂,
tire=轮胎, steering wheel=方向盘, car dashboard=中控/中控台, car interior=内饰/汽车内饰,
license plate|vehicle registration plate=车牌, charging station=充电桩/充电站, gas pump=加油机,
child safety seat=安全座椅/儿童座椅, traffic light=红绿灯/信号灯, traffic sign|stop sign|speed limit sign=路牌/交通标志,
traffic cone=路锥, street light|street lights=路灯, fire hydrant=消防栓, parking meter=停车计时器, bench=长椅,
billboard=广告牌, flag=旗帜/国旗, bird|wild bird|sparrow=鸟类/小鸟/鸟/观鸟, cat=猫咪/猫, dog=狗狗/狗, puppy=小狗/幼犬,
kitten=小猫/幼猫, rabbit=兔子, hamster=仓鼠, guinea pig=豚鼠/荷兰猪, parrot=鹦鹉/鸟类宠物, turtle|tortoise=乌龟/宠物龟,
goldfish=金鱼, fish|other fish=鱼/观赏鱼, aquarium|fish tank=鱼缸/水族箱/水族, snake=蛇/蛇类, lizard=蜥蜴/爬宠,
frog=青蛙/蛙类, hedgehog=刺猬, squirrel=松鼠, horse=马, sheep=羊/绵羊, goat=山羊, cow|cattle|bull=牛/奶牛, pig=猪,
chicken=鸡, duck=鸭子/鸭, goose=鹅, swan=天鹅, pigeon=鸽子, elephant=大象, bear|brown bear=熊, zebra=斑马, giraffe=长颈鹿,
lion=狮子, tiger=老虎, leopard=豹子, monkey=猴子, giant panda|panda=大熊猫/熊猫, red panda=小熊猫, capybara=水豚/卡皮巴拉,
alpaca=羊驼, deer=鹿, camel=骆驼, fox=狐狸, wolf=狼, kangaroo=袋鼠, koala=考拉, penguin=企鹅, dolphin=海豚, whale=鲸鱼,
shark=鲨鱼, jellyfish=水母, butterfly=蝴蝶, bee=蜜蜂, insect=昆虫/虫子, dragonfly=蜻蜓, spider=蜘蛛, snail=蜗牛, eagle=老鹰,
owl=猫头鹰, peacock=孔雀, crocodile=鳄鱼, pet food=宠物食品/猫粮/狗粮/宠物口粮, cat tree|cat furniture=猫爬架,
litter box=猫砂盆, dog leash=牵引绳/狗绳, pet carrier=航空箱/猫包, bird cage=鸟笼, backpack=双肩包/背包/书包,
umbrella=雨伞/伞, handbag|handbag/satchel=手提包/包包/手袋/单肩包/斜挎包, tote bag=托特包/帆布包, wallet|purse=钱包,
suitcase|luggage=行李箱/旅行箱, belt=皮带/腰带, tie|necktie=领带, bow tie=领结, dress=连衣裙/长裙/裙子,
skirt|miniskirt=半身裙/短裙/百褶裙, wedding dress=婚纱, hanfu=汉服/汉服国风, qipao|cheongsam=旗袍, kimono=和服,
school uniform=校服/JK制服/制服, lolita dress=洛丽塔/JK洛丽塔, t-shirt|tee=T恤/短袖/T恤卫衣, hoodie|sweatshirt=卫衣,
shirt=衬衫/衬衣, suit=西装/西服/衬衫西装, jeans=牛仔裤, trousers|pants=裤子/长裤/牛仔裤装, shorts=短裤,
jacket=夹克/外套/冲锋衣, coat=大衣/风衣/外套大衣, down jacket=羽绒服, sweater=毛衣/针织衫/毛衣针织, cardigan=开衫,
swimsuit|swimwear=泳衣/泳装/比基尼, bra|brassiere=内衣/文胸/内衣睡衣, pajamas=睡衣/家居服, socks|sock=袜子, stockings=丝袜,
sneakers|sneaker=运动鞋/球鞋/跑鞋/板鞋, high heels|high heel=高跟鞋/高跟鞋与靴, boots|boot=靴子/马丁靴, sandals|sandal=凉鞋,
slippers=拖鞋, leather shoes=皮鞋, shoe|footwear|other shoes=鞋/鞋子/女鞋, hat=帽子/帽子围巾, baseball cap=棒球帽/鸭舌帽,
scarf=围巾/丝巾, gloves|glove=手套, sunglasses=墨镜/太阳镜/眼镜墨镜, glasses=眼镜, watch=腕表/手表/机械表,
jewelry=首饰/珠宝/饰品, necklace=项链, earrings|earring=耳环/耳钉, ring=戒指/钻戒, bracelet|bangle=手镯/手链, brooch=胸针,
hairpin=发夹/发簪, gold jewelry=金饰/黄金珠宝/黄金首饰, crown|tiara=皇冠, lipstick=口红/唇膏/唇釉/唇彩, lip gloss=唇蜜/唇油,
foundation bottle=粉底液/粉底/底妆, cushion compact=气垫/气垫粉底, face powder|compact powder=散粉/粉饼/蜜粉,
concealer=遮瑕膏/遮瑕, eyeshadow palette=眼影盘/眼影/眼妆, mascara=睫毛膏, eyeliner=眼线笔/眼线, false eyelashes=假睫毛,
eyelash curler=睫毛夹, eyebrow pencil=眉笔/眉妆, blush compact=腮红/腮红修容/胭脂, contour palette=修容盘/高光盘/修容,
makeup brush|cosmetics brush=化妆刷/化妆工具/美妆工具, makeup sponge=美妆蛋/粉扑, cosmetics|toiletry=化妆品/彩妆,
cosmetics mirror=化妆镜, cosmetic bag=化妆包, perfume|perfume bottle=香水/香氛, nail polish=指甲油/甲油胶,
manicured nails=美甲/指甲彩绘, sheet mask=面膜/敷面膜, face cream jar=面霜/护肤/护肤品/眼霜, serum bottle=精华液/精华,
sunscreen tube=防晒霜/防晒/防晒乳, cleanser tube=洗面奶/洁面/洁面乳/卸妆洁面, makeup remover=卸妆水/卸妆/卸妆油,
cotton pad=化妆棉, shampoo bottle=洗发水, body lotion=身体乳/身体护理, hand cream=护手霜,
hair dryer|hair drier=吹风机/电吹风, curling iron=卷发棒, comb=梳子, wig=假发, razor=剃须刀/男士理容, bottle=瓶子,
wine glass=酒杯/红酒杯, cup=杯子, mug|coffee cup=马克杯, water bottle=水杯/保温杯, fork=叉子, knife|kitchen knife=刀/菜刀,
spoon=勺子, chopsticks=筷子, bowl=碗, plate=盘子, teapot|tea pot=茶壶, tea set=茶具/茶文化/茶道, pot=锅, frying pan=平底锅,
wok=炒锅, kettle=水壶/烧水壶, cutting board=砧板, banana=香蕉, apple=苹果, orange|tangerine|orange/tangerine=橙子/橘子,
fruit=水果/鲜果, strawberry=草莓, watermelon=西瓜, grape|grapes=葡萄, cherry=樱桃/车厘子, peach=桃子, pear=梨, lemon=柠檬,
mango=芒果, pineapple=菠萝, durian=榴莲, lychee=荔枝, blueberry=蓝莓, kiwi fruit=猕猴桃, dragon fruit=火龙果, coconut=椰子,
avocado=牛油果, pomegranate=石榴, grapefruit|pomelo=柚子, hami melon|cantaloupe=哈密瓜, mangosteen=山竹, broccoli=西兰花,
carrot=胡萝卜, tomato=番茄/西红柿, potato=土豆, cucumber=黄瓜, eggplant=茄子, pepper|bell pepper=辣椒, cabbage=白菜,
lettuce=生菜, green vegetables|vegetable=蔬菜/青菜, onion=洋葱, garlic=大蒜, corn=玉米, pumpkin=南瓜,
mushroom=蘑菇/蘑菇菌子/菌子, tofu=豆腐, sandwich=三明治, hot dog=热狗, sausage=香肠, pizza=披萨, hamburger|burger=汉堡,
french fries=薯条, fried chicken=炸鸡/快餐炸鸡, steak=牛排/西餐, pasta|spaghetti=意面/意大利面, salad=沙拉/轻食/健身餐,
sushi=寿司/日料/日本料理, sashimi=刺身, ramen=拉面, noodles|noodle|noddles=面条/面食, rice=米饭, congee=粥,
dumplings|dumpling=饺子/水饺/饺子包子, steamed bun|baozi=包子/馒头, spring rolls=春卷, dim sum=早茶/粤菜早茶/广式早茶/粤菜,
hot pot=火锅/涮锅, barbecue skewers=烧烤/烤串/撸串, grilled meat=烤肉, crayfish=小龙虾, lobster=龙虾, crab=螃蟹/大闸蟹,
shrimp=虾, oyster=生蚝, seafood=海鲜, spicy sichuan dish=川湘菜/川菜/湘菜, bibimbap=石锅拌饭/韩餐/韩式料理, kimchi=泡菜,
stir-fried dish=家常菜/家常小炒, breakfast food=早餐/早饭, street food stall=路边小吃/夜市/小吃摊, soup=汤, egg=鸡蛋,
egg tart=蛋挞, cake=蛋糕, birthday cake=生日蛋糕, dessert=甜品/甜点/甜食, donut|doughnut=甜甜圈, cookie|cookies=饼干/曲奇,
bread=面包/烘焙, croissant=可颂, bagel=贝果, macaron=马卡龙, pudding=布丁, ice cream=冰淇淋/雪糕/冰激凌, chocolate=巧克力,
candy=糖果, chips|potato chips=薯片, snack=零食/小零食, nuts=坚果, popcorn=爆米花, mooncake=月饼, zongzi=粽子,
tanghulu=糖葫芦/冰糖葫芦, cheese=奶酪/芝士, milk=牛奶, coffee=咖啡/拿铁, bubble tea|milk tea=奶茶/珍珠奶茶, tea=茶,
juice=果汁, beer=啤酒, wine|wine bottle=红酒/葡萄酒, cocktail=鸡尾酒, chair=椅子/餐椅, couch|sofa=沙发, living room=客厅,
potted plant|houseplant=盆栽/绿植, bed=床, bedroom=卧室, dining table=餐桌/餐厅布置, desk|table=桌子/书桌, study room=书房,
coffee table=茶几, nightstand=床头柜, stool=凳子, wardrobe|closet=衣柜/衣帽间, cabinet|cabinet/shelf=柜子,
furniture=家具/实木家具, kitchen cabinet=橱柜, kitchen=厨房/厨房装修, shoe cabinet=鞋柜, bookcase|bookshelf|shelf=书架/书柜,
dressing table=梳妆台, mirror=镜子, curtain=窗帘/软装, carpet|rug=地毯, pillow=枕头/抱枕, bedding=床品/床品家纺/四件套,
blanket=毛毯/毯子, towel=毛巾, lamp|table lamp=台灯, chandelier|ceiling lamp=吊灯/灯具/灯光照明, floor lamp=落地灯,
candle=蜡烛, scented candle=香薰蜡烛/香薰/香氛摆件, vase=花瓶, picture frame|picture/frame|photo frame=相框/挂画,
clock|wall clock=时钟/钟表, window=窗户, door=门, stairs=楼梯, balcony=阳台/阳台改造, fireplace=壁炉, toilet=马桶,
sink=水槽/洗手池, faucet|tap=水龙头, bathtub=浴缸, shower head|showerhead=花洒, bathroom cabinet=浴室柜,
bathroom=卫浴/浴室/卫生间, toothbrush=牙刷, soap=香皂, trash can|trash bin can|waste container=垃圾桶, broom=扫帚, mop=拖把,
cleaning products=清洁用品/清洁家务, storage box=收纳盒/收纳箱/收纳, hanger=衣架,
tv|television|tv monitor|monitor/tv=电视机/电视, projector=投影仪/投影, refrigerator=冰箱, microwave|microwave oven=微波炉,
oven=烤箱, toaster=烤面包机, washing machine=洗衣机, home appliance=家电/家用电器, dishwasher=洗碗机, air conditioner=空调,
fan|electric fan=风扇, vacuum cleaner=吸尘器, robot vacuum=扫地机器人, air fryer=空气炸锅, rice cooker=电饭煲,
coffee machine|coffeemaker=咖啡机, blender=榨汁机, humidifier=加湿器, smart lock=智能门锁/智能家居, gas stove=燃气灶/灶台,
range hood|extractor=油烟机, laptop=笔记本电脑/笔记本, mouse|computer mouse=鼠标, remote|remote control=遥控器,
keyboard|computer keyboard=键盘/键盘鼠标/机械键盘, cell phone|mobile phone|smartphone=手机/智能手机, iphone=iPhone/苹果手机,
phone case=手机壳, tablet computer|tablet=平板电脑/平板, computer monitor|monitor=显示器,
desktop computer|computer box=台式机/电脑主机/台式机装机, graphics card=显卡,
headphones|headphone|head phone=耳机/头戴式耳机, earphone|earbuds=入耳式耳机/蓝牙耳机, smartwatch=智能手表/智能手环,
camera=相机/单反/微单, camera lens=镜头/摄影器材, tripod=三脚架, speaker=音箱/音响, microphone=麦克风/话筒,
game controller=游戏手柄, game console=游戏主机/游戏机/掌机, vr headset=VR眼镜/VR/元宇宙VR, router|router/modem=路由器,
power bank=充电宝/移动电源, charger=充电器/充电头/充电配件, usb cable=数据线, hard drive=硬盘/固态硬盘/存储设备,
e-reader=电子书阅读器/电子书, printer=打印机, calculator=计算器, robot=机器人, book=书/书籍, pen=笔, notebook=本子/手账,
scissors=剪刀, whiteboard=白板, blackboard|blackboard/whiteboard=黑板, globe=地球仪, medal=奖牌/金牌, trophy=奖杯,
gift box=礼盒/礼物, box=箱子/盒子, blind box=盲盒/盲盒潮玩, figurine|anime figure=手办, stroller|baby stroller=婴儿车,
baby bottle=奶瓶/宝宝用品, diaper=纸尿裤/尿不湿, pacifier=安抚奶嘴/奶嘴, crib|infant bed=婴儿床,
milk powder can=奶粉/婴儿奶粉, baby food=辅食/宝宝辅食, baby clothes=童装/宝宝衣服, toy=玩具/儿童玩具,
building blocks|lego=积木/乐高, doll=娃娃, teddy bear|stuffed toy=毛绒玩具/玩偶, balloon=气球, pregnant woman=孕妇/孕妈/孕期,
sports ball|ball|other balls=球, soccer ball|soccer|football=足球, basketball=篮球, volleyball=排球, tennis ball=网球,
tennis racket=网球拍, badminton racket=羽毛球拍/羽毛球, table tennis paddle|table tennis racket=乒乓球拍/乒乓球,
baseball bat=棒球棒, baseball glove=棒球手套, golf ball|golf club=高尔夫球, billiards|billiard table=台球,
boxing gloves=拳击手套, skateboard=滑板, surfboard=冲浪板, skis|ski=滑雪板, snowboard=滑雪单板,
ice skates|skating and skiing shoes=冰鞋, frisbee|flying disc=飞盘, kite=风筝, dumbbell=哑铃/力量训练, barbell=杠铃,
treadmill=跑步机, yoga mat=瑜伽垫, yoga pose=瑜伽, jump rope=跳绳, exercise bike|stationary bicycle=动感单车,
protein powder=蛋白粉/运动补剂, swimming pool=泳池/游泳馆, tent=帐篷/露营, campfire=篝火, fishing rod=鱼竿,
hot-air balloon|hot air balloon=热气球, ferris wheel=摩天轮, carousel=旋转木马, guitar=吉他/钢琴吉他, piano=钢琴,
violin=小提琴, cello=大提琴, drum|drum kit=架子鼓, flute=笛子, guzheng=古筝/民乐器乐, saxophone=萨克斯, stage=舞台,
flower=鲜花/花/草花, bouquet=花束/插花/花艺, rose=玫瑰/月季, sunflower=向日葵, tulip=郁金香, lily=百合, orchid=兰花,
hydrangea=绣球花/绣球, lotus=荷花, cherry blossom=樱花, plum blossom=梅花, peony=牡丹, chrysanthemum=菊花,
succulent plant=多肉植物/多肉, cactus=仙人掌, bonsai=盆景, clematis=铁线莲, bougainvillea=三角梅, flowerpot=花盆/园艺工具,
watering can=浇水壶, seedling=幼苗/扦插繁殖, tree=树, palm tree=棕榈树, grass=草地, maple leaf=枫叶, mountain=山,
snow mountain=雪山/高山雪山, beach=沙滩/海边, sea=大海, lake=湖泊, waterfall=瀑布, rainbow=彩虹, fireworks=烟花,
building=建筑/大楼, skyscraper=摩天大楼, bridge=桥, tower=塔, temple=寺庙, castle=城堡, lantern=灯笼, christmas tree=圣诞树,
calligraphy=书法, ink painting=国画/水墨画, oil painting=油画, sculpture|statue=雕塑, porcelain=瓷器/陶瓷/陶艺陶瓷,
embroidery=刺绣, poster=海报, screenshot=截图, qr code=二维码, banknote=钞票, coin=硬币, gold bar=金条, passport=护照,
syringe=注射器, pill=药片/药丸, mask|face mask=口罩, wheelchair=轮椅, stethoscope=听诊器, tank=坦克, warship=军舰,
aircraft carrier=航母, missile=导弹, rocket=火箭, gun=枪, pet toy=宠物玩具/宠物用品, breastfeeding=母乳喂养/喂奶,
electric car=电动汽车/新能源汽车, luxury car=豪车/豪华车, tuned car=改装车, car wash=洗车/用车养车, auto show=车展,
traffic jam=堵车/交通出行, museum=博物馆, hotel room=酒店/酒店民宿, ancient town=古镇, hiking=徒步/登山徒步,
amusement park=游乐园/主题乐园, hot spring=温泉/冰雪温泉, grassland=草原/草原沙漠, desert=沙漠, landscape=风景/自然风光,
island=海岛/海岛游, coast=海岸/海岸海岛, forest=森林/森林生态, wetland=湿地/湿地河湖, starry sky=星空/极光星空, aurora=极光,
wild animal=野生动物, sea animal=海洋生物, plant=植物, garden=花园/花园设计, vegetable garden=菜园/阳台种菜,
tropical plant=热带植物/雨林植物, fruit tree=果树/果树种植, painting=绘画/画画, illustration=插画,
watercolor painting=水彩画/水彩, pencil sketch=素描/素描速写, stamp seal=印章/篆刻印章, graffiti=涂鸦/街头涂鸦,
handicraft=手工/手工艺术, music band=乐队, opera costume=戏服/戏曲, ancient chinese building=古建筑, spring couplets=春联,
woodblock print=版画, comic=漫画, cosplay costume=cos服/Cosplay, badge=徽章, playing cards=扑克牌, board game=桌游,
mahjong tiles=麻将, chess=象棋, telephone=电话, surveillance camera=摄像头, key=钥匙, tissue|toilet paper|napkin=纸巾,
basket=篮子, barrel|bucket|barrel/bucket=桶, ladder=梯子, tool=工具, hammer=锤子, fire extinguisher=灭火器,
cigarette|cigar/cigarette=香烟, lighter=打火机, swing=秋千, slide=滑梯, scale=体重秤, paint brush|brush=画笔, tape=胶带,
binoculars=望远镜, crane|machinery vehicle=工程车, tractor=拖拉机, canned|canned food=罐头, pie=馅饼, meatball=肉丸,
plum=李子, papaya=木瓜, green onion=大葱, radish=萝卜, asparagus=芦笋, scallop=扇贝, donkey=驴, yak=牦牛, seal=海豹,
antelope=羚羊, trumpet=小号, baseball=棒球, american football|rugby ball=橄榄球, curling=冰壶
"""
CHINESE = re.compile("[\u3400-\u9fff]")


def chinese_name(label: str) -> str | None:
    """Return the everyday Chinese word for a detector's label, or None; a label in Chinese is its own name."""
    if CHINESE.search(label):
        return label
    to_chinese, _ = read_names()
    plain = " ".join(label.lower().replace("_", " ").split())
    parts = (plain, *(part.strip() for part in plain.split("/")))
    return next((to_chinese[part] for part in parts if part in to_chinese), None)


def english_name(word: str) -> str | None:
    """Return what an English-trained detector may be asked for to find what the Chinese word names, or None."""
    return read_names()[1].get(word.lower())


@cache
def read_names() -> tuple[dict[str, str], dict[str, str]]:
    """Return {english: chinese} and {chinese in lower case: english}."""
    to_chinese: dict[str, str] = {}
    to_english: dict[str, str] = {}
    for entry in NAMES.replace("\n", " ").split(","):
        english, _, chinese = entry.strip().partition("=")
        words = chinese.split("/")
        for name in english.split("|"):
            to_chinese[name] = words[0]
        for word in words:
            to_english.setdefault(word.lower(), english.split("|")[0])
    return to_chinese, to_english
